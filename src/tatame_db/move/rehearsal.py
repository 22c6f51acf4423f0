"""The whole move, practised offline on two databases that nobody else knows."""

from __future__ import annotations

from pathlib import Path

# A Supabase project as the app left it: names, types, keys and policies.
SUPABASE_SCHEMA = Path(__file__).with_name("supabase.sql")
