"""`python -m tests.fuzz --minutes 60`: odd commands for as long as that, and what they broke."""

import sys

from tests.fuzz.runner import long_run
from tests.fuzz.targets import TARGETS

sys.exit(long_run(TARGETS))
