"""Money and tokens: what a call may cost at most, what it did cost, and who has how much left."""

from massgen.budget.ledger import Cap, Counted, Ledger, Reservation
from massgen.budget.prices import FREE, Price, price_of

__all__ = ["FREE", "Cap", "Counted", "Ledger", "Price", "Reservation", "price_of"]
