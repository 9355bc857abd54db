"""What decides a run's results and lies outside its file: photos and models, by their contents."""

from mudi.model_facts import weights_identity
from pipeline.settings.benchmark_config import BenchmarkConfig
from pipeline.settings.config import RunConfig
from pipeline.tables.run_folder import folder_sha256


def inputs_of(config: RunConfig | BenchmarkConfig) -> dict[str, str]:
    """The photos of a run's combinations and the models behind its names, each with what tells its content from others."""
    names = {"backbone": config.models.backbone, "detector": config.models.detector, "sam": config.models.segmenter}
    names |= config.models.embedders.chosen
    identities = {f"model {part}": weights_identity(name, "" if part == "backbone" else part) for part, name in names.items()}
    return {f"combination {folder.name}": folder_sha256(folder) for folder in config.combinations} | identities
