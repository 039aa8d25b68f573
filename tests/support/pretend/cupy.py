"""`import cupy` where this folder is on the path gives the stand-in, in any process: what a GPU is for, rehearsed without one."""

import pytest
import standin

standin.install(pytest.MonkeyPatch())  # for good; puts itself in this module's place
