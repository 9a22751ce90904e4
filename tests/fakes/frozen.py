"""The training command with frozen BatchNorm, for test_distributed: statistics over a share differ from the batch's."""
from torch import nn

from core import cli
from train import main

nn.BatchNorm2d.train = lambda self, mode=True: nn.Module.train(self, False)

if __name__ == "__main__":
    cli.run(main)
