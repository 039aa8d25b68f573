"""`python -m minidat`"""

import sys

from minidat.cli import main

sys.exit(main())
