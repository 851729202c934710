"""Several processes with one model: rank 0 decides everything and serves, the others follow.

A follower is told what rank 0's `Stepper` and slots are told, in the same words, and carries it out with its part
of the weights. What has to be added up goes through `mx.distributed`, and so does the token that rank 0 draws: it
enters everybody's next forward as an array, so nobody waits for it.

A sum that one process never joins cannot be interrupted. So who is gone is noticed beside it: each follower has a
socket to rank 0, on which a thread of its own says once a second that it is there, and what it computed meanwhile
(`life.py`); and rank 0 knows for how long it has waited (`waits.py`).
"""
