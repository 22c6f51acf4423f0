"""A rehearsal of the whole move, offline: a project like Supabase's and a target, on a temporary server."""
