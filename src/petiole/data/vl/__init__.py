"""Vision-language data: samples of text about images, features of images, batches of many tasks.

Reading order: `sample` (one question or caption), `parts` (a data set), `rows` (checked JSON), then a
file for each data set (`vqa`, `gqa`, `nlvr`, `captions`, `video`, `daquar`) and for one's own
(`plain`, `classes` for class folders asked as questions, `vqa_rad`, `questions` for whichever lies there), `registry`
(which file opens what); `features` (what an image is to the model) with a file
for each kind of store (`hdf5`, `npz`, `shards`) and `pooled` (fewer tokens); `batches` (who comes when).
"""
