"""Sampling rules: how a clip moves from one time of the grid to the next.

Shape letters: B clips, C channels, T frames, H W height and width. Nothing here depends on the
number of dimensions after B.

Every rule needs only the clean clip, the noise and the shares (alpha, sigma) of two times, so
that each works under each objective. The last step lands on the predicted clean clip: the
network is never asked at time 0, where no noise is left to predict.
"""

from torch import Tensor

from models.diffusion.moments import forward_variance, log_snr_step, posterior_variance, power
from models.diffusion.run import Run


def euler(run: Run, x_BCTHW: Tensor) -> Tensor:
    """First order along the probability flow: clean and noise are held over the step.

    Under rectified flow this is Euler in t; under the other schedules it is DDIM without noise.
    """
    for here, there in run.steps():
        found = run.predict(x_BCTHW, here)
        x_BCTHW = there.alpha * found.clean + there.sigma * found.noise
    return x_BCTHW


def heun(run: Run, x_BCTHW: Tensor) -> Tensor:
    """Second order: clean and noise averaged over both ends of the step, the last step Euler.

    Under rectified flow this is Heun in t. Under the other schedules the trapezoid rule runs
    over d alpha and d sigma instead of dt, which needs no derivative of the schedule and stays
    finite where sigma' or sigma/alpha is not.

    Source: Karras et al. 2022, arXiv:2206.00364, algorithm 1, with the change of variable above.
    """
    for here, there in run.steps():
        first = run.predict(x_BCTHW, here)
        euler = there.alpha * first.clean + there.sigma * first.noise
        if there.sigma == 0.0:
            return euler
        second = run.predict(euler, there)
        clean = (first.clean + second.clean) / 2
        noise = (first.noise + second.noise) / 2
        moved = (there.alpha - here.alpha) * clean + (there.sigma - here.sigma) * noise
        x_BCTHW = x_BCTHW + moved
    return x_BCTHW


def ddim(run: Run, x_BCTHW: Tensor) -> Tensor:
    """Source: Song et al. 2020, arXiv:2010.02502, equations 12 and 16."""
    for here, there in run.steps():
        found = run.predict(x_BCTHW, here)
        fresh = run.config.eta * posterior_variance(here, there) ** 0.5
        kept = max(there.sigma**2 - fresh**2, 0.0) ** 0.5
        x_BCTHW = there.alpha * found.clean + kept * found.noise
        if fresh > 0.0:
            x_BCTHW = x_BCTHW + fresh * run.draw(x_BCTHW)
    return x_BCTHW


def ddim_back(run: Run, x_BCTHW: Tensor) -> Tensor:
    """DDIM steps of double length, each followed by one step of fresh noise back.

    The last step has no second one to cover and no time to go back to: it is plain DDIM.

    Source: Ho et al. 2022 (Imagen Video), arXiv:2210.02303, section 2.7, for distilled models.
    """
    for step, (here, back) in enumerate(run.steps()):
        far = run.moments[min(step + 2, len(run.moments) - 1)]
        found = run.predict(x_BCTHW, here)
        x_BCTHW = far.alpha * found.clean + far.sigma * found.noise
        if back.sigma > 0.0:
            fresh = forward_variance(back, far) ** 0.5
            x_BCTHW = back.alpha / far.alpha * x_BCTHW + fresh * run.draw(x_BCTHW)
    return x_BCTHW


def ddpm(run: Run, x_BCTHW: Tensor) -> Tensor:
    """Ancestral sampling with log variance between its lower and upper bound.

    Source: Ho et al. 2022 (Imagen Video), arXiv:2210.02303, section 2.1: variance =
    lower^(1 - exponent) * upper^exponent. The lower bound is right for data at one point, the
    upper one for white data of variance 1; stated here for any alpha and sigma. Where the
    network learns the exponent, value by value, it is Nichol and Dhariwal 2021,
    arXiv:2102.09672, equation 15, with the bounds of this grid's own steps (section 4 there).
    """
    for here, there in run.steps():
        found = run.predict(x_BCTHW, here)
        share = found.variance_share
        exponent = run.config.variance if share is None else share
        lower = posterior_variance(here, there)
        kept = max(there.sigma**2 - lower, 0.0) ** 0.5
        x_BCTHW = there.alpha * found.clean + kept * found.noise
        if there.sigma > 0.0:
            upper = forward_variance(here, there) * power(there) / power(here)
            std = (lower ** (1 - exponent) * upper**exponent) ** 0.5
            x_BCTHW = x_BCTHW + std * run.draw(x_BCTHW)
    return x_BCTHW


def dpmpp_2m(run: Run, x_BCTHW: Tensor) -> Tensor:
    """Second order from the previous step's clean clip, one call per step.

    First order where a neighbour has no log SNR: in the first step, in the second one if time 1
    holds no signal, and in the last one.

    Source: Lu et al. 2022, arXiv:2211.01095, algorithm 2, with exp(-h) written as shares.
    """
    previous: Tensor | None = None
    width_before = 0.0
    for here, there in run.steps():
        clean = run.predict(x_BCTHW, here).clean
        width = log_snr_step(here, there)
        guess = clean
        if previous is not None and there.sigma > 0.0:
            guess = clean + width / (2 * width_before) * (clean - previous)
        ratio = there.sigma / here.sigma
        x_BCTHW = ratio * x_BCTHW + (there.alpha - ratio * here.alpha) * guess
        previous, width_before = clean, width
    return x_BCTHW
