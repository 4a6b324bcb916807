"""What the interpolation network of a cascade can do beyond the recipe's own frame skip.

Shape letters: B clips, T frames, H W height and width; n frames are known.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.cascade.chain import Cascade, resident
from models.cascade.link import Link, Request
from models.make_a_video.interpolation import first_frames


@dataclass(frozen=True)
class Picture:
    """A still that becomes the first frame of a clip.

    Attributes:
        frame_3HW: of the interpolation network's size, pixels in [-1, 1].
        seen_3HW: as the pair of encoders takes pictures, pixels in [-1, 1].
    """

    frame_3HW: Tensor
    seen_3HW: Tensor


@dataclass(frozen=True)
class VariedCascade:
    """A cascade whose interpolation network is asked for something else.

    Attributes:
        cascade: has one network that is given frames.
        skip: frames from one known frame to the next; None for the recipe's.
        extrapolate: go on after the last frame.
        picture: the first frame; no prior and no decoder then.

    Source: Singer et al. 2022 (Make-A-Video), arXiv:2209.14792, section 3.3: interpolation at
    varying skips, extrapolation and image animation by one network.
    """

    cascade: Cascade
    skip: int | None = None
    extrapolate: bool = False
    picture: Picture | None = None

    @torch.no_grad()
    def sample(self, prompts: Sequence[str], *, seeds: Sequence[int]) -> list[Tensor]:
        """As ``Cascade.sample``; with a picture, from the interpolation network on.

        Raises:
            ValueError: if the counts differ, or no network is given frames.
        """
        cascade, place = self.cascade, given_place(self.cascade)
        link = with_skip(cascade.links[place], skip=self.skip)
        if self.picture is None:
            request = cascade.request(prompts, seeds=seeds)
            clips = replace(cascade, links=(*cascade.links[:place], link)).run(request)
        else:
            request = self._about_picture(prompts, seeds=seeds)
            with resident(link.model, device=cascade.device):
                clips = [animate(link, request, self.picture.frame_3HW)]
        if self.extrapolate:
            with resident(link.model, device=cascade.device):
                clips[-1] = go_on(link, request, clips[-1])
        larger = replace(cascade, links=cascade.links[place + 1 :])
        return [*clips, *larger.run(request, clips[-1])]

    def _about_picture(self, prompts: Sequence[str], *, seeds: Sequence[int]) -> Request:
        """The embedding of the picture itself instead of one that the prior imagines."""
        assert self.picture is not None
        request = replace(self.cascade, prior=None).request(prompts, seeds=seeds)
        if self.cascade.prior is None:
            return request
        pair = self.cascade.prior.chain.pair
        seen_13HW = self.picture.seen_3HW[None].to(next(pair.parameters()).device)
        return replace(request, embedding_BE=pair.image(seen_13HW).expand(len(prompts), -1))


def given_place(cascade: Cascade) -> int:
    """Which network is given frames.

    Raises:
        ValueError: if none is.
    """
    for place, link in enumerate(cascade.links):
        if link.step == "given":
            return place
    raise ValueError("no network of the cascade is given frames")


def with_skip(link: Link, *, skip: int | None) -> Link:
    """The interpolation network with another frame skip: as many known frames, another pace.

    Raises:
        ValueError: if the skip is below 2.
    """
    if skip is None:
        return link
    if skip < 2:
        raise ValueError(f"skip={skip}, wanted at least 2")
    known = (link.frames - 1) // link.factor + 1
    fps = link.fps / link.factor * skip
    return replace(link, factor=skip, frames=(known - 1) * skip + 1, fps=fps)


def animate(link: Link, request: Request, frame_3HW: Tensor) -> Tensor:
    """Clips that begin with a picture, [B, 3, T, H, W] with the frames of the network."""
    clips = len(request.generators)
    first_B3HW = frame_3HW.expand(clips, -1, -1, -1)
    known_B3THW = _at_the_start(first_B3HW.unsqueeze(2), frames=link.frames)
    mask_T = first_frames(link.frames, given=1)
    return link.complete(request, known_B3THW, mask_T.expand(clips, -1))


def go_on(link: Link, request: Request, x_B3nHW: Tensor) -> Tensor:
    """Longer clips: the second half of the network's window is new, the first one known."""
    given = link.frames // 2
    known_B3THW = _at_the_start(x_B3nHW[:, :, -given:], frames=link.frames)
    mask_T = first_frames(link.frames, given=given)
    window = link.complete(request, known_B3THW, mask_T.expand(len(x_B3nHW), -1))
    return torch.cat([x_B3nHW, window[:, :, given:].to(x_B3nHW)], dim=2)


def _at_the_start(x_B3nHW: Tensor, *, frames: int) -> Tensor:
    clips, channels, known, height, width = x_B3nHW.shape
    x_B3THW = x_B3nHW.new_zeros(clips, channels, frames, height, width)
    x_B3THW[:, :, :known] = x_B3nHW
    return x_B3THW
