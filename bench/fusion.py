"""`python -m bench.fusion`: gradient fusion of two rank-32 LoRAs on SDXL's attention, from Grams of its true widths.

Values are synthetic: inputs of 512 rows with a decaying spectrum on top of a floor, text states of 24 tokens. Making them comes before
the clock starts; both concepts' Grams lie in memory throughout, which the peak includes.
"""

import resource
import time

CORES, RANK, CONCEPTS, ROWS, TOKENS = 2, 32, 2, 512, 24
SECONDS, GIGABYTES = 60, 8


def main() -> None:
    import torch

    from mudi.checkpoints.random_weights import empty_unet
    from mudi.merging.grams import attention_layers, gram_bytes
    from mudi.merging.loras import merge_fusion

    torch.set_num_threads(CORES)
    unet = empty_unet()
    layers = {name: unet.get_submodule(name) for name in attention_layers(unet)}
    print(f"{len(layers)} layers; Grams of one concept: {gram_bytes(unet) / 1e9:.3f} GB", flush=True)
    source = torch.Generator().manual_seed(0)
    grams = [synthetic_grams(layers, source) for _ in range(CONCEPTS)]
    states = [synthetic_lora(layers, source) for _ in range(CONCEPTS)]
    print(f"{len(grams[0].sums)} different Grams a concept; peak memory before fusion {peak():.2f} GB", flush=True)
    started, used = time.perf_counter(), time.process_time()
    _, errors = merge_fusion(states, grams)
    seconds, used = time.perf_counter() - started, time.process_time() - used
    flat = torch.tensor([error for of_layer in errors.values() for error in of_layer])
    print(
        f"fusion of {CONCEPTS} rank-{RANK} LoRAs on {CORES} cores: {seconds:.1f} s ({used:.1f} s of CPU), peak memory {peak():.2f} GB",
        end=" ",
    )
    print(f"(targets {SECONDS} s, {GIGABYTES} GB); median error {flat.median():.3f}, largest {flat.max():.3f}")


def synthetic_grams(layers: dict, source):
    """Grams of one concept, as `grams.collecting` would leave them."""
    import torch

    from mudi.adapter_size import shared_key
    from mudi.merging.grams import Grams

    grams = Grams()
    for name, layer in layers.items():
        key, width = shared_key(name, layer.in_features), layer.in_features
        grams.keys[name] = key
        if key in grams.sums:
            continue
        text = key.startswith("text.")
        rows = torch.randn(TOKENS if text else ROWS, width, generator=source, dtype=torch.float64 if text else torch.float32)
        rows *= torch.arange(1, width + 1).pow(-0.5).to(rows)
        grams.sums[key] = rows.T @ rows
        if not text:
            grams.sums[key].diagonal().add_(1e-3 * grams.sums[key].trace() / width)
        grams.rows[key] = len(rows)
    return grams


def synthetic_lora(layers: dict, source) -> dict:
    """A LoRA of RANK with normal factors of about the size that fits have."""
    import torch

    state = {}
    for name, layer in layers.items():
        state[f"unet.{name}.lora_A.weight"] = torch.randn(RANK, layer.in_features, generator=source) / RANK
        state[f"unet.{name}.lora_B.weight"] = 0.01 * torch.randn(layer.out_features, RANK, generator=source)
    return state


def peak() -> float:
    """The most memory this process has held so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
