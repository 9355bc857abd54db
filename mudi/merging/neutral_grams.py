"""The Grams of captions without a subject of the user, which gradient fusion may be asked to leave as they are."""

from collections.abc import Sequence

from mudi import adapters
from mudi.adapter_size import TEXT, shared_key
from mudi.backbone import Backbone
from mudi.merging.constrained import neutral_states
from mudi.merging.grams import Grams, attention_layers


def neutral_grams(backbone: Backbone, class_nouns: Sequence[str], targets: Sequence[str]) -> Grams:
    """X^T X of the states X of `neutral_captions`, encoded by the bare model, for those of the LoRA's layers that the text feeds.

    Keys and values of cross-attention see nothing but these states, at any step and of any picture; what the other layers see
    of a caption would have to be drawn, so they have no Gram here. The states are those of the words and the end marks.
    """
    adapters.detach(backbone)
    modules = dict(backbone.unet.named_modules())
    keys = {name: shared_key(name, modules[name].in_features) for name in attention_layers(backbone.unet, targets) if TEXT.fullmatch(name)}
    states = neutral_states(backbone, class_nouns)
    return Grams(sums=dict.fromkeys(keys.values(), states.T @ states), rows=dict.fromkeys(keys.values(), len(states)), keys=keys)
