"""Text encoders and tokenizers behind one interface."""
