"""The answers of hosted services, as their clients read them: a module per service."""
