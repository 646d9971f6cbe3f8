"""Every rule's cases and mutants, a file a family.

CASES are `Case`s. MUTANTS are (module, rule, what it says, what the mutant says): a term dropped, a
sign flipped, a factor of 1.001, a wrong axis, a mask missing. STEMS names, for a rule whose cases
begin with another word, that word.
"""

from cases import attention, conv, core, losses, recurrent
from cases.base import KEYED, QUIET, Case

FAMILIES = (core, losses, conv, attention, recurrent)
CASES = [case for family in FAMILIES for case in family.CASES]
MUTANTS = [mutant for family in FAMILIES for mutant in family.MUTANTS]
STEMS = {rule: stem for family in FAMILIES for rule, stem in family.STEMS.items()}

__all__ = ["CASES", "KEYED", "MUTANTS", "QUIET", "STEMS", "Case"]
