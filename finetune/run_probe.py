"""Features, and what they know: `accelerate launch finetune/run_probe.py RECIPE.yaml [--field value ...]`.

    ... probe_vision.yaml                                       every layer, few labels, against untrained and raw
    ... probe_audio.yaml --weights teacher --layer average      the teacher's layers, averaged
    ... probe_text.yaml --probes '[]' --per_step true           only write features, one vector per token

Exit codes: 0 done, 2 refused (the message names the field or the row, and the fix).
"""

import sys

from data2vec.finetune.command_line import check_command
from data2vec.pretraining.command_line import answer_early


if __name__ == "__main__":
    answer_early(lambda: check_command("run_probe.py"))

from collections.abc import Sequence

from data2vec.finetune.arguments import parse
from data2vec.finetune.probe.arguments import Probe
from data2vec.finetune.probe.runner import probe
from data2vec.finetune.runner import command


TASK = Probe


def main(argv: Sequence[str] | None = None) -> int:
    return command(lambda: probe(parse(argv, TASK)))


if __name__ == "__main__":
    sys.exit(main())
