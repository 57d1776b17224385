"""Questions about pictures, made of their captions by rules, after COCO-QA (Ren, Kiros and Zemel, 2015).

    python -m training.caption_questions --captions captions_train.json --out FOLDER

The path of a caption: tagger.py (parts of speech, by lexicon.py) -> phrases.py -> clauses.py -> rules.py (questions,
where agreement.py finds that the picture's captions agree) -> balance.py -> vqa_files.py.
"""
