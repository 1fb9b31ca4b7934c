"""What people paste into bug reports, read as a Snapshot: texts of tools in, rows of the kernel's tables out.

Nothing here touches files, sockets or engines. `recognise` finds the listings in a text, by what they look like; a
module for each kind of listing turns it into rows; `assemble` puts the rows of all texts together. A line that is not
understood is never passed over: it becomes a `Trouble`, which quotes it.
"""

from nettrace.paste.assemble import Assembled, assemble
from nettrace.paste.lines import Source
from nettrace.paste.recognise import recognise

__all__ = ["Assembled", "Source", "assemble", "recognise"]
