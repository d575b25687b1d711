"""An extension's module that ends the program when it is imported, as some do on a Python that they do not like."""

import sys

sys.exit("needs another Python")
