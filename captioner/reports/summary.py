"""The configuration and the size of a model as text: `config.toml` and `model.txt`."""

from __future__ import annotations

from dataclasses import asdict

from torch import nn

from captioner.config import Config

_MB = 1e6


def config_toml(config: Config) -> str:
    """Returns every setting as TOML that `captioner.config.load_config` can read."""
    import tomli_w

    return tomli_w.dumps(asdict(config))


def model_summary(model: nn.Module) -> str:
    """Returns a table of parameters and sizes of a model's modules, two levels deep.

    A parameter that two modules share counts in both modules and once in the total.
    """
    head = f"{'module':<40}{'parameters':>14}{'trainable':>14}{'MB':>10}"
    lines = [type(model).__name__, "", head, "-" * len(head)]
    for name, module in model.named_children():
        lines.append(_row(name, module))
        parts = ((inner, part) for inner, part in module.named_children() if any(True for _ in part.parameters()))
        lines += [_row(f"  {name}.{inner}", part) for inner, part in parts]
    return "\n".join([*lines, "-" * len(head), _row("total", model), ""])


def _row(name: str, module: nn.Module) -> str:
    parameters = list(module.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    size = sum(t.numel() * t.element_size() for t in (*parameters, *module.buffers()))
    return f"{name:<40}{sum(p.numel() for p in parameters):>14,}{trainable:>14,}{size / _MB:>10.2f}"
