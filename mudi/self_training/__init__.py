"""Objectives of self-training by name: which rows a round trains on and by which loss. A new one is a file and a line here."""

from mudi.self_training import filtered, negative_aware, preference
from mudi.self_training.candidates import Objective

OBJECTIVES: dict[str, Objective] = {
    "filtered": Objective(examples=filtered.examples, loss=filtered.loss),
    "negative_aware": Objective(examples=negative_aware.examples, loss=negative_aware.loss),
    "preference": Objective(examples=preference.examples, loss=preference.loss),
}
