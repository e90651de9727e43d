"""``torchrun`` that ends with the sentence of a user's mistake where there is one: for ``tools/_launch.sh``."""
from __future__ import annotations

import sys

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

MISTAKE = 'Mistake: '  # how torch writes an exception of errors.Mistake into the file of the process that failed


def sentence_of(error: ChildFailedError) -> str:
    """Return the sentence of the first process to fail; empty where it failed of something else."""
    said = (error.get_first_failure()[1].error_file_data or {}).get('message')
    said = str(said.get('message') if isinstance(said, dict) else said)
    return said[len(MISTAKE):] if said.startswith(MISTAKE) else ''


def main() -> None:
    """Launch."""
    try:
        run.main()
    except ChildFailedError as error:
        sentence = sentence_of(error)
        if not sentence:
            raise
        print(f'error: {sentence}', file=sys.stderr)
        raise SystemExit(2)


if __name__ == '__main__':
    main()
