"""Pictures in: data sets of every kind, random crops, and the grain pipeline."""

from pathlib import Path

PHOTOGRAPHS = Path(__file__).parent / "photographs"
