"""python -m sparring"""

from sparring.cli import main

main()
