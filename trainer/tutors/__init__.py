"""Larger models that speak, behind one port: an endpoint, a folder of transformers, a checkpoint of ours.

for index, answers in tutor.ask([Question((Message(role="user", content="Why?"),), SamplingParams())]):
    print(index, answers[0].text)
"""

from trainer.tutors.port import Answer, Finish, Prices, Question, Tutor, TutorError, Usage

__all__ = ["Answer", "Finish", "Prices", "Question", "Tutor", "TutorError", "Usage"]
