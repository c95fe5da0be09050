"""Trains a denoiser and shows what it learnt.

    python train.py                                   two CPU cores, about seven minutes
    python train.py --data.source ~/Pictures          on your own pictures
    python train.py color --data.source DIR           for real use, on an accelerator
    python train.py --help                            every option

The loop is in sa_flax/training/loop.py. Running the same command again goes on where the run
stopped.
"""

import sys

if __name__ == "__main__":
    try:
        from sa_flax.training.__main__ import main
    except KeyboardInterrupt:
        sys.exit("train.py: interrupted")
    sys.exit(main())
