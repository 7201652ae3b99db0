"""The tables of an ablation, in Markdown."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tools.experiments.ablation.figures import MEAN, Spread, columns, differences, points, scene_differences, spread
from tools.experiments.ablation.runs import BASELINE, BOTH, ROWS

SCENES_SHOWN = 5  # that gain most, and that lose most
EQUAL = 0.1  # points; what differs by less counts as equal


def report(result: Mapping[str, Any]) -> str:
    """The machine, mAP of every row, and which scenes gain and lose by both refinements."""
    about = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
    return "\n\n".join([about, main_table(result["runs"]), scene_table(result["runs"])])


def main_table(results: Sequence[Mapping[str, Any]]) -> str:
    """A line a row and backbone: mAP in points, mean ± std over seeds, and the paired difference to HOW."""
    sets = columns(results)
    lines = [
        f"| backbone | | seeds | {' | '.join(f'mAP {name}' for name in sets)} | "
        f"{' | '.join(f'Δ {name}' for name in sets)} |",
        "|---" * (3 + 2 * len(sets)) + "|",
    ]
    for backbone in backbones(results):
        for row, (label, _) in ROWS.items():
            seeds = len(points(results, backbone, row, sets[0]))
            figures = [as_text(spread(points(results, backbone, row, name))) for name in sets]
            gains = [
                "" if row == BASELINE else as_text(spread(differences(results, backbone, row, name)), "+")
                for name in sets
            ]
            lines.append(f"| {' | '.join([backbone, label, str(seeds), *figures, *gains])} |")
    lines += ["", "In points: mean ± standard std over seeds; Δ: to HOW with the same seed."]
    return "\n".join(lines)


def scene_table(results: Sequence[Mapping[str, Any]]) -> str:
    """How many scenes gain and lose by both refinements, and which do most."""
    lines = [
        f"| {ROWS[BOTH].label} against {ROWS[BASELINE].label} | test set | better | worse | equal | gain most | "
        "lose most |",
        "|---" * 7 + "|",
    ]
    for backbone in backbones(results):
        for name in (name for name in columns(results) if name != MEAN):
            scenes = scene_differences(results, backbone, BOTH, name)
            better = sorted((scene for scene in scenes if scenes[scene] > EQUAL), key=lambda s: (-scenes[s], s))
            worse = sorted((scene for scene in scenes if scenes[scene] < -EQUAL), key=lambda s: (scenes[s], s))
            equal = len(scenes) - len(better) - len(worse)
            most = [", ".join(f"{s} {scenes[s]:+.1f}" for s in side[:SCENES_SHOWN]) for side in (better, worse)]
            lines.append(f"| {backbone} | {name} | {len(better)} | {len(worse)} | {equal} | {' | '.join(most)} |")
    lines += ["", f"Scenes, by the mean over seeds and queries of the difference in points; equal: within {EQUAL:g}."]
    return "\n".join(lines)


def backbones(results: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(each["backbone"] for each in results))


def as_text(figure: Spread, sign: str = "") -> str:
    std = "" if math.isnan(figure.std) else f" ± {figure.std:.2f}"
    return f"{figure.mean:{sign}.2f}{std}"
