"""Process groups that nobody outside of this machine can reach."""

LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
"""Environment of ranks that are all on this machine. Gloo would else listen at the address of its
host's name, which others may know, and NCCL at the first interface that is not loopback."""

HOST = "127.0.0.1"
"""MASTER_ADDR of such a gang."""
