"""The models of one process: each is loaded at first use and stays for the whole run; adapters are swapped on the one backbone."""

from collections.abc import Callable
from typing import Any

from mudi.backbone import Backbone
from mudi.records import Adapter

# A GPU with less memory than this holds no fit of SDXL beside the scorers, so these wait on the CPU while a fit runs.
ROOM_FOR_BOTH = 32 * 2**30


def warm() -> None:
    """Import the libraries of all models, which takes 30 s of CPU time, while another worker is already at work."""
    import transformers.models.clip.modeling_clip
    import transformers.models.owlv2.modeling_owlv2  # noqa: F401


class Loaded:
    """Models by kind and name, on one device ("cpu" or "cuda"). Sums are split by the number of threads, and the bits of an image
    must not depend on the node, so each piece of work sets it."""

    def __init__(self, device: str, threads: int) -> None:
        self.device, self.threads = device, threads
        self.kept: dict[tuple, Any] = {}
        self.worn: str | None = None
        self.scorers: set[tuple] = set()

    def once(self, key: tuple, load: Callable[[], Any]) -> Any:
        """The value that `load` gives, kept under `key`."""
        if key not in self.kept:
            self.kept[key] = load()
        return self.kept[key]

    def backbone(self, name: str, precision: str) -> Backbone:
        """The diffusion model, with whatever adapter is on it; only `wear` and fits change that."""
        import torch

        from mudi import models

        return self.once(("backbone", name, precision), lambda: models.load(name, self.device, getattr(torch, precision)))

    def wear(self, backbone: Backbone, adapter: Adapter) -> None:
        """Put the adapter on, unless it is the one that was put on last and nothing else has used the backbone since."""
        from mudi import adapters

        worn = f"{backbone.name} {adapter.sha256}"
        if self.worn != worn:
            self.worn = None
            adapters.put_on(backbone, adapter)
            self.worn = worn

    def bare(self, backbone: Backbone) -> None:
        """Take everything off."""
        from mudi import adapters

        self.worn = None
        adapters.detach(backbone)

    def scorer(self, role: str, *names: str) -> Any:
        """A "detector" or "segmenter" by its name, or an "embedder" by its kind and name."""
        from mudi import models

        self.scorers.add((role, *names))
        return self.once((role, *names), lambda: getattr(models, f"load_{role}")(*names, self.device))

    def make_room_for_a_fit(self) -> None:
        """Move the scorers to the CPU where the GPU is too small for both (`ROOM_FOR_BOTH`)."""
        self._move("cpu")

    def bring_scorers_back(self) -> None:
        """Undo `make_room_for_a_fit`."""
        self._move(self.device)

    def _move(self, device: str) -> None:
        if self.device != "cuda":
            return
        import torch

        if torch.cuda.get_device_properties(0).total_memory < ROOM_FOR_BOTH:
            for model in [self.kept[key] for key in self.scorers & set(self.kept)]:
                getattr(model, "model", model).to(device)
