"""How a run goes: health numbers, guards against collapse and non-finite steps, `health.json`, progress."""
