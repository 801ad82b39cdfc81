"""`python -m treepo`."""

import sys

from treepo.cli.main import main

sys.exit(main())
