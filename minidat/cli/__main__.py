"""`python -m minidat.cli`"""

import sys

from minidat.cli import main

sys.exit(main())
