"""A whole comparison on one HTML page: tables, interactive figures, nothing from outside."""
