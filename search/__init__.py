"""The search: the space, the study, export to ExecuTorch, budgets, the front and the winner.

Takes ports (measure, score, remember) and returns values; opens neither a database nor a socket.
"""
