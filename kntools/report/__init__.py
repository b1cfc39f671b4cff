"""All figures of Niu et al. 2024 on one model, and one page that shows them: what `kntools report` does.

```python
from kntools.report import FIGURES, QUICK, Study, build

study = Study(model, QUICK, out="out/report")
build(study, FIGURES).page
```

A figure's numbers come from `kntools.analyses`; here stand what each is asked about (`study`), what it shows (one
function per figure, `figures` lists them) and the page (`build`). If it is interrupted, run it again to resume.
"""

from kntools.report.build import Report, build
from kntools.report.figures import FIGURES, choose
from kntools.report.sizes import FULL, QUICK, Size
from kntools.report.study import Study

__all__ = ["FIGURES", "FULL", "QUICK", "Report", "Size", "Study", "build", "choose"]
