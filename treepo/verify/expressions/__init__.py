"""Mathematical answers: read whole into typed answers, and compared by what they mean.

text, characters -> commands, tokens -> parser (cursor, literals) -> reader (lists, relations, sets, quantities, times,
phrases) -> compare (equality, numeric) -> judging.
"""
