"""Heads that copy, set before training instead of waited for.

In a small model, attention to `what stood after the last occurrence of this` forms late or, beside other lessons, not
at all. `set_copying_heads` writes a rough version into the first two blocks; a few dozen steps of drill sharpen it.
"""

from __future__ import annotations

import torch
from transformers import LlamaForCausalLM

SHARP = 4.0
"""Size of the query and key biases that look a fixed number of tokens back."""
QUICK, SLOW = 0.12, 0.03
"""Rotations in radians per token: those above QUICK tell neighbours apart, those below SLOW hardly notice distance."""
WRITE, MATCH, COPY = 0.08, 2.5, 0.6
"""Strengths: of what block 0 writes, of the match in block 1, and of what it copies; by trial (docs/log.md)."""
BACK = 3


def set_copying_heads(model: LlamaForCausalLM, seed: int) -> None:
    """Set heads 0 to 2 of the first two blocks in place; needs attention biases, 4 heads and 2 blocks or more.

    Block 0, head j: looks j + 1 tokens back, by biases whose rotary phases meet at that distance, and writes what
    stood there into a subspace of its own. Block 1, head j: looks for places before which the same j + 1 tokens
    stood as here, and copies what stands there (induction heads, Olsson et al. 2022).
    """
    config = model.config
    width = config.hidden_size
    size = width // config.num_attention_heads
    half = size // 2
    pace = 1 / config.rope_parameters["rope_theta"] ** (torch.arange(half) / half)
    rng = torch.Generator().manual_seed(seed)
    project = _orthonormal(size, width, rng)
    spaces = torch.split(_orthonormal(BACK * size, width, rng), size)
    slow = [n for n in range(half) if pace[n] <= SLOW]
    blind = torch.tensor(slow + [n + half for n in slow])
    first, second = (model.model.layers[n].self_attn for n in (0, 1))
    with torch.no_grad():
        for j in range(BACK):
            rows = slice(j * size, (j + 1) * size)
            size_of = torch.where(pace >= QUICK, SHARP, 0.0)
            phase = -(j + 1) * pace
            first.q_proj.weight[rows] *= 0.1
            first.k_proj.weight[rows] *= 0.1
            first.q_proj.bias[rows] = torch.cat([size_of * torch.cos(phase), size_of * torch.sin(phase)])
            first.k_proj.bias[rows] = torch.cat([size_of, torch.zeros(half)])
            first.v_proj.weight[rows] = project
            first.o_proj.weight[:, rows] = WRITE * spaces[j].T

            second.q_proj.weight[rows] *= 0.1
            second.k_proj.weight[rows] *= 0.1
            each = len(blind) // (j + 1)
            for part in range(j + 1):
                taken = blind[part :: j + 1][:each] + j * size
                source = torch.randperm(size, generator=rng)[:each]
                here = project if part == 0 else spaces[part - 1]
                second.q_proj.weight[taken] = MATCH * here[source]
                second.k_proj.weight[taken] = MATCH * spaces[part][source]
            copied = _orthonormal(size, width, rng)
            second.v_proj.weight[rows] = copied
            second.o_proj.weight[:, rows] = COPY * copied.T


def _orthonormal(rows: int, columns: int, rng: torch.Generator) -> torch.Tensor:
    q: torch.Tensor = torch.linalg.qr(torch.randn(columns, rows, generator=rng))[0]
    return q.T
