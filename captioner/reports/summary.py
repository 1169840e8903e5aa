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
    rows: list[tuple[str, str, str, str]] = [("module", "parameters", "trainable", "MB")]
    for name, module in model.named_children():
        rows.append(_row(name, module))
        parts = ((inner, part) for inner, part in module.named_children() if any(True for _ in part.parameters()))
        rows += [_row(f"  {name}.{inner}", part) for inner, part in parts]
    rows.append(_row("total", model))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    rule = "-" * len(lines[0])
    return "\n".join([type(model).__name__, "", lines[0], rule, *lines[1:-1], rule, lines[-1], ""])


def _row(name: str, module: nn.Module) -> tuple[str, str, str, str]:
    parameters = list(module.parameters())
    everything = [*parameters, *module.buffers()]
    return (
        name,
        f"{sum(p.numel() for p in parameters):,}",
        f"{sum(p.numel() for p in parameters if p.requires_grad):,}",
        f"{sum(t.numel() * t.element_size() for t in everything) / _MB:.2f}",
    )
