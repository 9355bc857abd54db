"""The personalisation methods by name. A new one is a file here and a line below."""

from mudi.methods.mudi import MuDI

METHODS = {"mudi": MuDI}
