"""Reward functions that ask a language model: an LLM as judge, behind an OpenAI-compatible endpoint.

scoring.ScoreJudge          a number for a response
comparing.ComparisonJudge   a response against a baseline, in both orders
judge.Judge                 what both share: asking, reading, caching, counting
endpoint.Endpoint           one HTTP endpoint: keys, time limits, attempts
template.QuestionTemplate   how a response becomes a question
cache.VerdictCache          verdicts on disk
verdicts.VerdictForm        one line of the judge's own, which no response can imitate
secrets.without_key         replies without the key
usage.Usage                 what was asked and what it cost
"""
