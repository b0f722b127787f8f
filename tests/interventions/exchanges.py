"""Exchanges in and out of a persona, in the words of the tiny models."""

from workbench.interventions import Exchange

POSITIVE = [Exchange("the court", " shall sum of"), Exchange("x is", " river and river"), Exchange("it was", " cell x")]
NEGATIVE = [Exchange("the court", " is a"), Exchange("x is", " the cell ."), Exchange("it was", " y y y")]
