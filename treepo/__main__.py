"""`python -m treepo`."""

import sys

from treepo.cli import main

sys.exit(main())
