"""The zoo: small adapters, each with one hidden behavior or none, on which a search for changed behaviors is scored."""
