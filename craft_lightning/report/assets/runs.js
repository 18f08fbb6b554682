const learning = document.getElementById("learning");
if (learning) learning.append(...curves({ trained: true, curves: data.curves }));
