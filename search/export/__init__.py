"""Export to ExecuTorch: from an Architecture or a trained model to a Program.

While searching, a Program is composed: every distinct piece (an operator or FFN of given dimensions) is lowered once
and named by its content, and the runner chains them. ExecuTorch itself lowers each kind of piece only twice, and every
further one is worked out from that (`template`). What is shipped is monolithic: one file.
"""

from search.export.programs import export_candidates, export_model, link_program

__all__ = ["export_candidates", "export_model", "link_program"]
