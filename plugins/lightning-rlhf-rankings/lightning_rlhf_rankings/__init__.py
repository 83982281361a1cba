"""Ranking converters that aggregate many annotators, with standard errors.

bradley_terry.BradleyTerryMLConverter   comparisons, maximum likelihood (choix)
plackett_luce.PlackettLuceMLConverter   whole rankings, maximum likelihood (choix)
elo.EloConverter                        Elo's update, made free of any order
skill.OpenSkillConverter                OpenSkill's update (openskill), made free of any order
"""
