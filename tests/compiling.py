"""How tests compile: with little optimisation, which would take longer than they do themselves.

What users' compilers make of it is for `test_right_numbers`, and for the jobs that CI runs besides.
"""

import importlib.metadata

QUICKLY = ["--xla_backend_optimization_level=0"]
# The older of two ways to write loops compiles in three quarters of the time; 0.12 has one alone.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    QUICKLY.append("--xla_cpu_use_fusion_emitters=false")
