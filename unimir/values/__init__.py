"""What the spans of a query say: phrases to typed values, in many languages. Knows no model, no filter, no index."""
