"""What the kernel itself says about a packet: the rules that met it, and why it was dropped.

    marks       what tells the packets of one run from all others
    nftrace     every nftables rule (iptables-nft's too) that they meet, in one network namespace
    drops       reason and function of every packet that the kernel drops in the injector's context
    session     the witnesses of one run together: opened, heard and closed

Each witness is opened by a function, is a context manager, has a `fileno()` that becomes readable when there is
something to hear and a `read()` that never blocks, and leaves nothing behind when it is closed. One that cannot serve
here raises WitnessError, which says why in one clause, and never stops a probe.
Counters, the witness that always works, are in the Snapshots taken before and after (`nettrace.collect`).
"""
