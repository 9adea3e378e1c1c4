"""The public API: pydantic models of the four kinds; the CRDs are generated from them."""
