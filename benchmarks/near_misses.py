r"""Near misses by kind: what each text says is not the reference beside it.

One a line, ``said | reference``. Those of ``BOXED`` are put in a box, which says them beyond doubt:
there the comparison must tell them apart. Those of ``SENTENCES`` are whole texts: there the
extraction must not cut out a part.
"""

from __future__ import annotations

from typing import NamedTuple


class NearMiss(NamedTuple):
    """A text that does not say its reference."""

    kind: str
    text: str
    reference: str


def near_misses() -> list[NearMiss]:
    """All of them, in the order of this file."""
    found = [
        NearMiss(kind, f"Therefore we get $\\boxed{{{said}}}$.", reference)
        for kind, lines in BOXED.items()
        for said, reference in _pairs(lines)
    ]
    return found + [
        NearMiss(kind, said.replace("⏎", "\n"), reference)
        for kind, lines in SENTENCES.items()
        for said, reference in _pairs(lines)
    ]


def _pairs(lines: str) -> list[tuple[str, str]]:
    pairs = [line.rpartition(" | ") for line in lines.strip().splitlines()]
    return [(said.strip(), reference.strip()) for said, _, reference in pairs]


BOXED = {
    "another sign": r"""
        -5 | 5
        5 | -5
        −5 | 5
        -\frac{3}{4} | \frac{3}{4}
        \frac{-3}{-4} | -\frac{3}{4}
        \pm 5 | 5
        \pm 5 | -5
        -x+1 | x+1
        x-y | y-x
        1-\sqrt{2} | 1+\sqrt{2}
        3-4i | 3+4i
        -\infty | \infty
        (-2,3) | (2,-3)
        10^{-3} | 10^3
        x^{-1} | x
        -x^2 | x^2
        -40\% | 40\%
        -\$5 | \$5
    """,
    "another base": r"""
        1011_2 | 1011_3
        1011_2 | 1011_{10}
        1112122_3 | 1112112_3
        204_5 | 204_6
        204_5 | 54
        8 | 13_5
        11 | 1011_2
        54 | 204_5
        12_8 | 12_{16}
        13_5 | 31_5
        101_{\text{two}} | 101_{\text{three}}
        2_5 | 5_2
        \log_2 8 | \log_3 8
        \log_2 8 | \log_8 2
        121_3 | 121_4
    """,
    "another order": r"""
        (2,1) | (1,2)
        [3,2] | [2,3]
        (1,3,2) | (1,2,3)
        (y,x) | (x,y)
        \left(\frac{1}{2},3\right) | \left(3,\frac{1}{2}\right)
        x=2,y=1 | x=1,y=2
        2,1 | x=1, y=2
        (a,b)=(2,1) | (a,b)=(1,2)
        \frac{4}{3} | \frac{3}{4}
        3/4 | 4/3
        2:3 | 3:2
        1:2:3 | 3:2:1
        b-a | a-b
        2^3 | 3^2
        a^b | b^a
        \begin{pmatrix}1&2\\3&4\end{pmatrix} | \begin{pmatrix}1&3\\2&4\end{pmatrix}
        \begin{pmatrix}2\\1\end{pmatrix} | \begin{pmatrix}1\\2\end{pmatrix}
        \binom{2}{5} | \binom{5}{2}
        x<y | y<x
        (3,4),(1,2) | (4,3),(2,1)
        5-3 | 3-5
        21 | 12
        12:05 | 05:12
    """,
    "another bracket": r"""
        [2,5] | (2,5)
        (2,5] | [2,5)
        (2,5) | [2,5]
        [2,5) | [2,5]
        (-\infty,3] | (-\infty,3)
        [0,1)\cup(2,3] | (0,1)\cup(2,3)
        \{2,5\} | [2,5]
        \{1,2\} | (1,2)
        (1,2) | \{1,2\}
        \{1,2,3\} | (1,2,3)
        x\le 3 | x<3
        x\ge 3 | (3,\infty)
        2\le x<5 | (2,5)
        \lfloor x\rfloor | \lceil x\rceil
        \lfloor x \rfloor | x
        |x| | x
    """,
    "another unit": r"""
        12 minutes | 12 hours
        12\text{ cm} | 12\text{ m}
        12\text{ cm}^2 | 12\text{ cm}^3
        12\text{ cm}^2 | 12\text{ cm}
        5\text{ km} | 5\text{ miles}
        60\text{ km/h} | 60\text{ m/s}
        60\text{ miles per hour} | 60\text{ miles}
        \$12 | 12\text{ cents}
        €12 | \$12
        £5 | €5
        30^\circ | 30\text{ radians}
        40\% | 40\text{ dollars}
        40\% | 4
        40\% | 0.04
        0.4\% | 0.4\text{ cm}
        3\text{ apples} | 3\text{ oranges}
        20^\circ\text{C} | 20^\circ\text{F}
        5\pi\text{ cm} | 5\pi\text{ cm}^2
        2\sqrt{3}\text{ m} | 2\sqrt{3}\text{ km}
        3 p.m. | 3 a.m.
        5\text{ days} | 5\text{ weeks}
        7\text{ kg} | 7\text{ lb}
        2\text{ dozen} | 2
        5\text{ million} | 5
        5\text{ million} | 5\text{ billion}
        10\text{ square meters} | 10\text{ cubic meters}
    """,
    "another number": r"""
        1.5 | 15
        1,5 | 15
        1,234 | 1.234
        12345 | 1234
        12345678901 | 12345678902
        0.3333 | 1/3
        0.33 | 1/3
        3.14 | \pi
        3.1416 | \pi
        2.718 | e
        1.41 | \sqrt{2}
        5.001 | 5
        0.5 | 0.05
        \frac{1}{1000000000} | \frac{2}{1000000000}
        10^{-8} | 2\cdot 10^{-8}
        10^{-9} | 0
        1e-7 | 2e-7
        \frac{1}{10^{12}} | 0
        0.0000001 | 0
        3\cdot 10^{-10} | 4\cdot 10^{-10}
        2^{100} | 2^{100}+1
        10^{20} | 10^{20}+1
        2^{-40} | 2^{-41}
        0.\overline{3} | 0.3
        0.\overline{12} | 0.12
        0.1\overline{6} | 0.16
        1.5\times 10^3 | 1.5\times 10^4
        6.02\times 10^{23} | 6.02\times 10^{22}
        2\frac{1}{3} | \frac{2}{3}
        2\frac{1}{3} | 2.3
        1\frac{1}{2} | \frac{11}{2}
        1 1/2 | 11/2
        32, 349 | 32349
        1{,}234 | 234
        5! | 5
        5!! | 5!
        \frac{1}{3} | \frac{1}{4}
        2^{2025} | 3^{2025}
        \frac{22}{7} | \pi
        100.5 | 100
        third | 1/3
        twelve | 20
        twenty-one | 2001
    """,
    "letters permuted": r"""
        dod | odd
        \text{dod} | \text{odd}
        vene | even
        on | no
        Yse | Yes
        BCA | ABC
        BA | AB
        \text{ACB} | \text{ABC}
        tripes | stripe
        listen | silent
        \text{Paris} | \text{pairs}
        Amy, Bob | Bob Amy
        north east | east north
        acute | obtuse
        god | dog
    """,
    "another name": r"""
        y=5 | x=5
        f(y) | f(x)
        f(x)=x^2 | g(x)=x^2
        R-r | r-R
        X+2x | x+2X
        x_1 | x_2
        a_{10} | a_1
        \alpha | \beta
        2x+3 | 2y+3
        \sin x | \cos x
        \sin x | \sinh x
        \ln x | \log_2 x
        x_2=3 | x_1=3
        \angle ABC = 40 | \angle ACB = 40
    """,
    "a part of a formula": r"""
        x > 5 | 5
        x \ge 5 | 5
        x \neq 5 | 5
        x < 5 | x
        2 < x < 5 | 5
        \frac{3}{4} | 4
        \frac{3}{4} | 3
        [2, 5] | 5
        (2, 5) | 2
        \{5\} \cup \{7\} | 5
        3 \cdot 4 | 4
        2 \cdot 3 \cdot 5 | 5
        \sqrt{2} | 2
        5\sqrt{2} | 5
        \sqrt[3]{5} | 5
        2^5 | 5
        2^5 | 2
        x^2 | 2
        5x | 5
        5\pi | 5
        3+4i | 4
        3+4i | 3
        x+5 | 5
        \log_2 5 | 5
        \binom{5}{2} | 5
        f(5) | 5
        P(X=5) | 5
        |x-5| | 5
        a_5 | 5
        5 \pmod{7} | 7
        n \equiv 5 \pmod{7} | 5
        2:5 | 5
        12:30 | 30
        1, 2, 5 | 5
        5, 6 | 5
        4 \text{ or } 5 | 5
        x=4 \text{ or } x=5 | 5
        x=4, y=5 | 5
        2^x = 8 | 8
        3x = 12 | 12
        x^2 = 9 | 9
        x^2 = 9 | x = 3
        x + y = 5 | 5
        2x - 1 = y + 5 | y + 5
        |x| = 4 | 4
        \lim_{x\to 5} f(x) | 5
        \int_0^5 f(x)\,dx | 5
        \sum_{k=1}^5 a_k | 5
        \begin{pmatrix}1&2\\3&5\end{pmatrix} | 5
        \text{at least } 5 | 5
        \text{more than } 5 | 5
        \text{not } 5 | 5
        5 \text{ or more} | 5
        5 \text{ times } x | 5
        5 + c | 5
        5 - t | 5
        2x + h | 2x
        3x - s | 3x
        6\sqrt{3} - m | 6\sqrt{3}
        7 = 11a + c | c
        11a + c | 7 = 11a + c
    """,
    "another letter": r"""
        A | B
        \text{(A)} | (B)
        \text{(C) } 12 | D
        \text{(C) } 12 | \text{(C) } 13
        B: 5 | C: 5
        A, B | A
        A \text{ or } B | B
        \text{not } A | A
        AB | A
        I | J
        (A)+(B) | A
    """,
    "part of a list": r"""
        1,2 | 1,2,3
        1,2,3 | 1,2
        1,1,2 | 1,2,2
        (1,2) | (1,2,3)
        \{1,2\} | \{1,2,3\}
        (1,2),(3,4) | (1,2)
        \pm 3 | 3,-3,0
        2 | \{2,3\}
        x=2 | x=2, x=-3
        3 | \pm 3
        \{2\} | \emptyset
        0 | \emptyset
        0 | 0,1
        (1,2),(3,4) | 1,2,3,4
        1,2,3,4 | (1,2),(3,4)
    """,
}

SENTENCES = {
    "a part of a sentence": r"""
        so $x > 5$ | 5
        so x > 5 | 5
        that is x <= 7 | 7
        2.5 < x | 2.5
        5 ≤ n | 5
        Hence n must be greater than 5. | 5
        So the price is at most 5 dollars. | 5
        She needs no more than 5 apples. | 5
        It takes fewer than 5 days. | 5
        Es sind mindestens 5 Äpfel. | 5
        Il y a au moins 5 pommes. | 5
        Hay más de 5 manzanas. | 5
        至少有5个。 | 5
        The answer is not 12. | 12
        The answer isn't 12. | 12
        The answer can't be 12. | 12
        The answer is less than 12. | 12
        The answer is between 3 and 5. | 5
        The answer is 3 to 5. | 5
        The answer is 12 or 13. | 12
        The answer is 12 or 13. | 13
        The answer is either 12 or 13. | 12
        The answer is 1, 2. | 2
        The answer is 3/4. | 4
        The answer is 3x. | 3
        The answer is 5! + 1. | 5
        The answer is x > 5. | 5
        The answer is $x \ge 2$. | 2
        The answer is 2^5. | 5
        The answer is 3 * 4. | 4
        The answer is (2, 5). | 5
        Answer: 3x | 3
        Answer: x = 3 or x = 4 | 4
        Final Answer: [2, 5] | 5
        the interval is [2, 5] | 5
        the interval is $(2, 5)$ | 5
        the point (3, 4) | 4
        the fraction is 3/4 | 4
        so $\frac{3}{4}$ | 4
        we get 3 * 4 | 4
        It costs 5 times 3 | 3
        It is 10^3 | 3
        we get 3x = 12 | 12
        so $2^x = 8$ | 8
        x = 3 or x = 4 | 4
        we have a = 3, b = 4 | 4
        $x=3$, $y=4$ | 4
        roughly 3 to 5 of 7 | 7
        so 7 divides 21 | 21
        n ≡ 3 (mod 5) | 5
        See equation (4). | 4
        This follows from step 3. | 3
        I used theorem 5. | 5
        I stop here after 3 of 10 steps. | 10
        The ratio is 2:3. | 3
        It is 12:30. | 30
        He was born in A1. | 1
        (A) 3 (B) 4 | 4
        The number is 1011_2. | 2
        The choices are A and B. | B
        She has 12 apples and 5 pears. | 5
        There are 3 red and 4 blue balls. | 4
        Il reste 3 pommes et 4 poires. | 4
        Es bleiben 3 Äpfel und 4 Birnen. | 4
        3个苹果和4个梨。 | 4
    """,
    "no answer": r"""
        For n = 5 we get a contradiction. | 5
        When x = 3 this fails. | 3
        At t = 4 the slope is flat. | 4
        so x^2 + 3^2 = 25 | 25
        so \boxed{5 | 5
        so \boxed{\frac{1}{2} | 1/2
        so $\boxed{x = 5$ | 5
        We get \boxed{} from 5. | 5
        \boxed | 5
        <answer>5 | 5
        #### | 5
        #### Step 5: multiply⏎and so on | 5
        ## 5. Conclusion⏎⏎Nothing follows. | 5
        ### Problem 5⏎⏎I do not know. | 5
        Problem 5 | 5
        I do not know. | 5
        Let x be 5 and solve on. Then what? | 5
        <think>The answer is 5. | 5
        <think>so \boxed{5}</think> I am not sure. | 5
        The answer is below. | 5
        What is the answer to question 5? | 5
    """,
    "taken back": r"""
        The answer is 5. Wait, that is wrong. The answer is 6. | 5
        So \boxed{5}. Wait, I lost a sign. The answer is 6. | 5
        \boxed{5} is wrong, so \boxed{6} | 5
        #### 5⏎No, that is not right.⏎#### 6 | 5
        <answer>5</answer> Correction: <answer>6</answer> | 5
        First try 5. Final answer: 6 | 5
        Answer: 5 was a wrong guess.⏎Answer: 6 | 5
        答案是5。不对，答案是6。 | 5
        \boxed{A} at first, but after all \boxed{B} | A
        The answer is A. No: the answer is B. | A
    """,
}
