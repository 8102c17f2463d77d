"""How long the tests wait for what must come: on a busy machine, too."""

from __future__ import annotations

# Seconds. Ends a test that hangs; whatever comes takes far less on any machine.
PATIENCE = 600.0
