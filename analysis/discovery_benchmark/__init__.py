"""The benchmark of the search for changed behaviors: models with one hidden behavior or none, and a score that needs no judge."""
