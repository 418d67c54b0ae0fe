"""The backend's URL: ``url`` finds its engine and refuses what none can be; the rest are the grammars of engines."""
